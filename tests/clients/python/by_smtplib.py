"""smtplib: who sends mail is greeted first."""

import smtplib

from arrival import begin, end

host, port, _ = begin()
mail = smtplib.SMTP()
_, greeting = mail.connect(host, port)
mail.close()
end(greeting.decode().split()[0])
